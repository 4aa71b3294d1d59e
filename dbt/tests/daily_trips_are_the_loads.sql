{# Every month that is loaded is in fct_daily_trips with all its trips, and no other month is. #}
select loads.color, loads.file_month, loads.row_count, daily.trips
from {{ source('ny_taxi', 'loads') }} as loads
full outer join (
    select color, file_month, sum(trips) as trips from {{ ref('fct_daily_trips') }} group by color, file_month
) as daily on daily.color = loads.color and daily.file_month = loads.file_month
where coalesce(loads.row_count, 0) <> coalesce(daily.trips, 0)
