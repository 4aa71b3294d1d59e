{{ monthly_config() }}
{#- A trip whose zone is not known counts under zone 0. #}
select
    trip.color,
    trip.file_month,
    loads.clean_sha256,
    cast(coalesce(trip.pickup_location_id, 0) as {{ integer_type() }}) as pickup_location_id,
    cast({{ iso_weekday('trip.pickup_datetime') }} as {{ integer_type() }}) as iso_weekday,
    cast(extract(hour from trip.pickup_datetime) as {{ integer_type() }}) as pickup_hour,
    cast(count(*) as {{ integer_type() }}) as trips
from {{ ref('int_all_trips') }} as trip
inner join {{ due_loads() }} as loads
    on loads.color = trip.color and loads.file_month = trip.file_month
where {{ where_due() }}
group by
    trip.color,
    trip.file_month,
    loads.clean_sha256,
    coalesce(trip.pickup_location_id, 0),
    {{ iso_weekday('trip.pickup_datetime') }},
    extract(hour from trip.pickup_datetime)
