{# A view: it holds every clean trip, and no trip is dropped for being like another. #}
{%- set integers = ['vendor_id', 'rate_code_id', 'pickup_location_id', 'dropoff_location_id', 'passenger_count',
                    'trip_type', 'payment_type'] %}
{%- set amounts = ['trip_distance', 'fare_amount', 'extra', 'mta_tax', 'tip_amount', 'tolls_amount', 'ehail_fee',
                   'improvement_surcharge', 'congestion_surcharge', 'airport_fee', 'cbd_congestion_fee',
                   'total_amount'] %}
select
    trips.color || '-' || substr(cast(trips.file_month as {{ text_type() }}), 1, 7) || '-'
        || cast(trips.source_row as {{ text_type() }}) as trip_id,
    trips.color,
    trips.file_month,
    cast(trips.source_row as {{ integer_type() }}) as source_row,
    trips.service_type,
    {%- for name in integers %}
    cast(trips.{{ name }} as {{ integer_type() }}) as {{ name }},
    {%- endfor %}
    pickup.borough as pickup_borough,
    pickup.zone as pickup_zone,
    dropoff.borough as dropoff_borough,
    dropoff.zone as dropoff_zone,
    trips.pickup_datetime,
    trips.dropoff_datetime,
    {{ minutes_between('trips.pickup_datetime', 'trips.dropoff_datetime') }} as trip_duration_minutes,
    trips.store_and_fwd_flag,
    {%- for name in amounts %}
    cast(trips.{{ name }} as {{ float_type() }}) as {{ name }},
    {%- endfor %}
    vendors.vendor_name,
    rates.name as rate_code_description,
    payments.name as payment_type_description,
    kinds.name as trip_type_description
from {{ ref('int_trips_unioned') }} as trips
left join {{ ref('dim_zones') }} as pickup on pickup.location_id = trips.pickup_location_id
left join {{ ref('dim_zones') }} as dropoff on dropoff.location_id = trips.dropoff_location_id
left join {{ ref('dim_vendors') }} as vendors on vendors.vendor_id = trips.vendor_id
left join {{ source('ny_taxi', 'rate_codes') }} as rates on rates.rate_code = trips.rate_code_id
left join {{ source('ny_taxi', 'payment_types') }} as payments on payments.payment_type = trips.payment_type
left join {{ source('ny_taxi', 'trip_types') }} as kinds on kinds.trip_type = trips.trip_type
