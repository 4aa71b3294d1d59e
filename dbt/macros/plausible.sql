{# Written by `make docs` from flows/nyc_tlc/contract/; change the contracts, not this file. #}

{# Whether a sum or an average can bear a value; the name says what it is. #}
{% macro plausible(name, value) -%}
    {%- set ranges = {
        'trip_distance': [0, 100],
        'trip_miles': [0, 100],
        'trip_duration_minutes': [0, 360],
        'trip_speed_mph': [0, 80],
        'passenger_count': [1, 6],
        'total_amount': [-2000, 2000],
        'fare_amount': [-2000, 2000],
        'base_passenger_fare': [-2000, 2000],
        'tip_amount': [-500, 500],
        'tips': [-500, 500],
    } -%}
    {{ value }} between {{ ranges[name][0] }} and {{ ranges[name][1] }}
{%- endmacro %}
