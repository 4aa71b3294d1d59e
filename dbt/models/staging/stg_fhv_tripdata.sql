select
    'fhv' as color,
    file_month,
    source_row,
    dispatching_base_num,
    affiliated_base_number,
    pickup_datetime,
    dropoff_datetime,
    pickup_location_id,
    dropoff_location_id,
    sr_flag
from {{ source('ny_taxi', 'fhv_trip_data') }}
