select
    cast(vendor_id as {{ integer_type() }}) as vendor_id,
    name as vendor_name
from {{ source('ny_taxi', 'vendors') }}
