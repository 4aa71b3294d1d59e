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

{# The sum of a column over the rows in which a value is plausible. #}
{% macro plausible_sum(name, value, column=none) -%}
    cast(sum(case when {{ plausible(name, value) }} then {{ column or value }} end) as {{ float_type() }})
{%- endmacro %}

{# The average of a column's plausible values. #}
{% macro plausible_avg(name, value) -%}
    cast(avg(case when {{ plausible(name, value) }} then {{ value }} end) as {{ float_type() }})
{%- endmacro %}

{# The number of rows whose value is not plausible; an unknown value is not one of them. #}
{% macro left_out(name, value) -%}
    cast(sum(case when not ({{ plausible(name, value) }}) then 1 else 0 end) as {{ integer_type() }})
{%- endmacro %}
