{# Taxis' trips; both staging models have the same columns. #}
select 'Yellow' as service_type, trips.* from {{ ref('stg_yellow_tripdata') }} as trips
union all
select 'Green' as service_type, trips.* from {{ ref('stg_green_tripdata') }} as trips
