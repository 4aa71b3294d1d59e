{#
    Aggregates follow the table loads. Each of their rows has the digest (clean_sha256) of the file it was built from.
    A month is due when its digest in loads is not in the model. The months that are due are read first and are
    constants in the query, so that a warehouse reads their partitions only.
#}
{% macro where_due() -%}
    {%- if not is_incremental() -%}
        true
    {%- else -%}
        {%- set found = due_months() -%}
        {%- if not found -%}
            false
        {%- else -%}
            {%- for color, months in found.items() %}
        {{ 'or ' if not loop.first }}(trip.color = '{{ color }}' and trip.file_month in (
            {%- for month in months %}date '{{ month }}'{{ ', ' if not loop.last }}{% endfor -%}
        ))
            {%- endfor -%}
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}

{# Colour -> months that are due. BigQuery replaces whole partitions: there a month is due in all its colours. #}
{% macro due_months() %}
    {% set found = {} %}
    {% if execute %}
        {% set query %}
            select loads.color, cast(loads.file_month as {{ text_type() }}) as file_month
            from {{ source('ny_taxi', 'loads') }} as loads
            where
            {%- if target.type == 'bigquery' %}
                loads.file_month in (
                    select due.file_month from {{ source('ny_taxi', 'loads') }} as due
                    where not exists ({{ built('due') }})
                )
            {%- else %}
                not exists ({{ built('loads') }})
            {%- endif %}
            order by 1, 2
        {% endset %}
        {% for row in run_query(query) %}
            {% do found.setdefault(row[0], []).append(row[1][:10]) %}
        {% endfor %}
    {% endif %}
    {{ return(found) }}
{% endmacro %}

{% macro built(loaded) -%}
    select 1 from {{ this }} as built
    where built.color = {{ loaded }}.color and built.file_month = {{ loaded }}.file_month
        and built.clean_sha256 = {{ loaded }}.clean_sha256
{%- endmacro %}

{#
    Runs after the new rows are in, in the same transaction: takes away what is built from a file that is no longer
    loaded. In this order a load that ends in between can leave a month out until the next run, but never twice.
#}
{% macro delete_unloaded() -%}
    delete from {{ this }} as built
    where not exists (
        select 1 from {{ source('ny_taxi', 'loads') }} as loads
        where loads.color = built.color and loads.file_month = built.file_month
            and loads.clean_sha256 = built.clean_sha256
    )
{%- endmacro %}

{#
    What the trips are joined with. Two runs at once may both have read that a month is due; the one that waited for
    lock_model finds here that it no longer is. BigQuery's partitions are replaced, so they need all of their months.
#}
{% macro due_loads() -%}
    {%- if is_incremental() and target.type != 'bigquery' -%}
        (select loads.* from {{ source('ny_taxi', 'loads') }} as loads where not exists ({{ built('loads') }}))
    {%- else -%}
        {{ source('ny_taxi', 'loads') }}
    {%- endif -%}
{%- endmacro %}

{# Held until the model's transaction ends. DuckDB's file has one writer anyway. #}
{% macro lock_model() -%}
    {%- if target.type == 'postgres' -%}
        select pg_advisory_xact_lock(hashtext('{{ this }}'))
    {%- endif -%}
{%- endmacro %}

{# How an aggregate is materialized. #}
{% macro monthly_config() %}
    {% if target.type == 'bigquery' %}
        {{ config(
            materialized='incremental', incremental_strategy='insert_overwrite',
            partition_by={'field': 'file_month', 'data_type': 'date', 'granularity': 'month'},
            on_schema_change='fail', post_hook="{{ delete_unloaded() }}",
        ) }}
    {% else %}
        {{ config(
            materialized='incremental', incremental_strategy='append',
            on_schema_change='fail', pre_hook="{{ lock_model() }}", post_hook="{{ delete_unloaded() }}",
        ) }}
    {% endif %}
{% endmacro %}
