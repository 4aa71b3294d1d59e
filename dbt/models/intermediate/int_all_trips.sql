{# What the trips of all four colours have in common. #}
select
    color, file_month, pickup_datetime, dropoff_datetime, pickup_location_id,
    trip_distance, total_amount, cast(payment_type as {{ integer_type() }}) as payment_type
from {{ ref('int_trips_unioned') }}
union all
select
    color, file_month, pickup_datetime, dropoff_datetime, pickup_location_id,
    cast(null as {{ float_type() }}), cast(null as {{ float_type() }}), cast(null as {{ integer_type() }})
from {{ ref('stg_fhv_tripdata') }}
union all
select
    color, file_month, pickup_datetime, dropoff_datetime, pickup_location_id,
    trip_miles,
    base_passenger_fare + coalesce(tolls, 0) + coalesce(bcf, 0) + coalesce(sales_tax, 0)
        + coalesce(congestion_surcharge, 0) + coalesce(airport_fee, 0) + coalesce(cbd_congestion_fee, 0)
        + coalesce(tips, 0),
    cast(null as {{ integer_type() }})
from {{ ref('stg_fhvhv_tripdata') }}
