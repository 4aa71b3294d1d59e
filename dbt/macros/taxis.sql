{# The trips of a colour of taxis, with the columns of both: a column that the colour lacks is null. #}
{% macro taxi_trips(color, lacks) -%}
select
    '{{ color }}' as color,
    file_month,
    source_row,
    vendor_id,
    rate_code as rate_code_id,
    pickup_location_id,
    dropoff_location_id,
    pickup_datetime,
    dropoff_datetime,
    store_and_fwd_flag,
    passenger_count,
    trip_distance,
    {%- for name in ['trip_type', 'fare_amount', 'extra', 'mta_tax', 'tip_amount', 'tolls_amount', 'ehail_fee',
                     'improvement_surcharge', 'congestion_surcharge', 'airport_fee', 'cbd_congestion_fee',
                     'total_amount'] %}
    {{ 'cast(null as ' ~ lacks[name] ~ ') as ' if name in lacks }}{{ name }},
    {%- endfor %}
    payment_type
from {{ source('ny_taxi', color ~ '_trip_data') }}
{%- endmacro %}
