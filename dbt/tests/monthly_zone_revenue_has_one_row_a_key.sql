select color, file_month, pickup_location_id, count(*) as found
from {{ ref('fct_monthly_zone_revenue') }}
group by color, file_month, pickup_location_id
having count(*) > 1
