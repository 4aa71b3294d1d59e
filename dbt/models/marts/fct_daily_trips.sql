{{ monthly_config() }}
{%- set minutes = minutes_between('trip.pickup_datetime', 'trip.dropoff_datetime') %}
{#- A file has trips of the day before and after its month too: a day can have a row in two files. #}
select
    trip.color,
    trip.file_month,
    loads.clean_sha256,
    cast(trip.pickup_datetime as date) as pickup_date,
    cast(count(*) as {{ integer_type() }}) as trips,
    {{ plausible_sum('total_amount', 'trip.total_amount') }} as total_amount,
    {{ left_out('total_amount', 'trip.total_amount') }} as total_amount_left_out,
    {{ plausible_sum('trip_distance', 'trip.trip_distance') }} as trip_distance,
    {{ left_out('trip_distance', 'trip.trip_distance') }} as trip_distance_left_out,
    {{ plausible_sum('trip_duration_minutes', minutes) }} as trip_duration_minutes,
    {{ left_out('trip_duration_minutes', minutes) }} as trip_duration_minutes_left_out,
    {{ share_where('trip.payment_type = 1') }} as share_credit_card,
    {{ share_where('trip.payment_type = 2') }} as share_cash
from {{ ref('int_all_trips') }} as trip
inner join {{ due_loads() }} as loads
    on loads.color = trip.color and loads.file_month = trip.file_month
where {{ where_due() }}
group by trip.color, trip.file_month, loads.clean_sha256, cast(trip.pickup_datetime as date)
