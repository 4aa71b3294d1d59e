{{ monthly_config() }}
{#- A trip whose zone is not known counts under zone 0. #}
select
    trips.color,
    trips.file_month,
    loads.clean_sha256,
    cast(coalesce(trips.pickup_location_id, 0) as {{ integer_type() }}) as pickup_location_id,
    cast({{ iso_weekday('trips.pickup_datetime') }} as {{ integer_type() }}) as iso_weekday,
    cast(extract(hour from trips.pickup_datetime) as {{ integer_type() }}) as pickup_hour,
    cast(count(*) as {{ integer_type() }}) as trips
from {{ ref('int_all_trips') }} as trips
inner join {{ source('ny_taxi', 'loads') }} as loads
    on loads.color = trips.color and loads.file_month = trips.file_month
where {{ where_due() }}
group by
    trips.color,
    trips.file_month,
    loads.clean_sha256,
    coalesce(trips.pickup_location_id, 0),
    {{ iso_weekday('trips.pickup_datetime') }},
    extract(hour from trips.pickup_datetime)
