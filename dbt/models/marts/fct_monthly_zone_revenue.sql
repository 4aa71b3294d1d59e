{{ monthly_config() }}
{#- The month is the file's. A trip whose zone is not known counts under zone 0. A trip whose total is not plausible adds
    no revenue. #}
select
    trip.color,
    trip.file_month,
    loads.clean_sha256,
    cast(coalesce(trip.pickup_location_id, 0) as {{ integer_type() }}) as pickup_location_id,
    coalesce(max(zones.zone), 'Unknown Zone') as pickup_zone,
    trip.file_month as revenue_month,
    trip.service_type,
    {%- for name, column in {'fare': 'fare_amount', 'extra': 'extra', 'mta_tax': 'mta_tax', 'tip_amount': 'tip_amount',
            'tolls_amount': 'tolls_amount', 'ehail_fee': 'ehail_fee', 'improvement_surcharge': 'improvement_surcharge',
            'total_amount': 'total_amount'}.items() %}
    {{ plausible_sum('total_amount', 'trip.total_amount', 'trip.' ~ column) }} as revenue_monthly_{{ name }},
    {%- endfor %}
    {{ left_out('total_amount', 'trip.total_amount') }} as total_amount_left_out,
    cast(count(*) as {{ integer_type() }}) as total_monthly_trips,
    {{ plausible_avg('passenger_count', 'trip.passenger_count') }} as avg_monthly_passenger_count,
    {{ left_out('passenger_count', 'trip.passenger_count') }} as passenger_count_left_out,
    {{ plausible_avg('trip_distance', 'trip.trip_distance') }} as avg_monthly_trip_distance,
    {{ left_out('trip_distance', 'trip.trip_distance') }} as trip_distance_left_out
from {{ ref('int_trips_unioned') }} as trip
inner join {{ due_loads() }} as loads
    on loads.color = trip.color and loads.file_month = trip.file_month
left join {{ ref('dim_zones') }} as zones on zones.location_id = trip.pickup_location_id
where {{ where_due() }}
group by trip.color, trip.file_month, loads.clean_sha256, coalesce(trip.pickup_location_id, 0), trip.service_type
