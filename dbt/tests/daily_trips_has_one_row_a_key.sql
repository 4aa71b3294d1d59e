select color, file_month, pickup_date, count(*) as found
from {{ ref('fct_daily_trips') }}
group by color, file_month, pickup_date
having count(*) > 1
