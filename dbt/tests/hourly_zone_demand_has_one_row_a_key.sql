select color, file_month, pickup_location_id, iso_weekday, pickup_hour, count(*) as found
from {{ ref('fct_hourly_zone_demand') }}
group by color, file_month, pickup_location_id, iso_weekday, pickup_hour
having count(*) > 1
