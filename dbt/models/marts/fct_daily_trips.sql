{{ monthly_config() }}
{#- A file has trips of the day before and after its month too: a day can have a row in two files. #}
select
    trip.color,
    trip.file_month,
    loads.clean_sha256,
    cast(trip.pickup_datetime as date) as pickup_date,
    cast(count(*) as {{ integer_type() }}) as trips,
    cast(sum(trip.total_amount) as {{ float_type() }}) as total_amount,
    cast(sum(trip.trip_distance) as {{ float_type() }}) as trip_distance,
    cast(sum({{ minutes_between('trip.pickup_datetime', 'trip.dropoff_datetime') }}) as {{ float_type() }})
        as trip_duration_minutes,
    {{ share_where('trip.payment_type = 1') }} as share_credit_card,
    {{ share_where('trip.payment_type = 2') }} as share_cash
from {{ ref('int_all_trips') }} as trip
inner join {{ due_loads() }} as loads
    on loads.color = trip.color and loads.file_month = trip.file_month
where {{ where_due() }}
group by trip.color, trip.file_month, loads.clean_sha256, cast(trip.pickup_datetime as date)
