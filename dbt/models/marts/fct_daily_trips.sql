{{ monthly_config() }}
{#- A file has trips of the day before and after its month too: a day can have a row in two files. #}
select
    trips.color,
    trips.file_month,
    loads.clean_sha256,
    cast(trips.pickup_datetime as date) as pickup_date,
    cast(count(*) as {{ integer_type() }}) as trips,
    cast(sum(trips.total_amount) as {{ float_type() }}) as total_amount,
    cast(sum(trips.trip_distance) as {{ float_type() }}) as trip_distance,
    cast(sum({{ minutes_between('trips.pickup_datetime', 'trips.dropoff_datetime') }}) as {{ float_type() }})
        as trip_duration_minutes,
    {{ share_where('trips.payment_type = 1') }} as share_credit_card,
    {{ share_where('trips.payment_type = 2') }} as share_cash
from {{ ref('int_all_trips') }} as trips
inner join {{ source('ny_taxi', 'loads') }} as loads
    on loads.color = trips.color and loads.file_month = trips.file_month
where {{ where_due() }}
group by trips.color, trips.file_month, loads.clean_sha256, cast(trips.pickup_datetime as date)
