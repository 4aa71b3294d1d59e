{# What the three warehouses call the same types. #}
{% macro text_type() %}{{ 'string' if target.type == 'bigquery' else 'text' }}{% endmacro %}
{% macro float_type() %}{{ 'float64' if target.type == 'bigquery' else 'float8' }}{% endmacro %}
{% macro integer_type() %}{{ 'int64' if target.type == 'bigquery' else 'bigint' }}{% endmacro %}

{# 1 is Monday, 7 is Sunday. #}
{% macro iso_weekday(column) -%}
    {%- if target.type == 'bigquery' -%}
        mod(extract(dayofweek from {{ column }}) + 5, 7) + 1
    {%- else -%}
        extract(isodow from {{ column }})
    {%- endif -%}
{%- endmacro %}

{# The duration in minutes, with the fraction. #}
{% macro minutes_between(first, last) -%}
    cast({{ dbt.datediff(first, last, 'second') }} as {{ float_type() }}) / 60
{%- endmacro %}

{# A share of all rows, from 0 to 1. #}
{% macro share_where(condition) -%}
    cast(sum(case when {{ condition }} then 1 else 0 end) as {{ float_type() }}) / count(*)
{%- endmacro %}
