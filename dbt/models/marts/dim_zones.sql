select
    cast(location_id as {{ integer_type() }}) as location_id,
    borough,
    zone,
    service_zone
from {{ source('ny_taxi', 'zones') }}
