-- External tables of BigQuery over the lake's files. Written by `make docs` from flows/nyc_tlc/contract/.
-- Put your bucket, with its folder if it has one, in place of gs://YOUR_BUCKET. The dataset has to be where the bucket is.
-- year and month are the folders' names: a query that asks for them reads those folders only.
-- While a month is replaced, its folder can have two files for a moment. The tables that are loaded never show that.

CREATE SCHEMA IF NOT EXISTS `ny_taxi_lake`;

CREATE OR REPLACE EXTERNAL TABLE `ny_taxi_lake.yellow_trip_data` (
  vendor_id INT64,
  pickup_datetime DATETIME,
  dropoff_datetime DATETIME,
  passenger_count INT64,
  trip_distance FLOAT64,
  rate_code INT64,
  store_and_fwd_flag STRING,
  pickup_location_id INT64,
  dropoff_location_id INT64,
  payment_type INT64,
  fare_amount FLOAT64,
  extra FLOAT64,
  mta_tax FLOAT64,
  tip_amount FLOAT64,
  tolls_amount FLOAT64,
  improvement_surcharge FLOAT64,
  total_amount FLOAT64,
  congestion_surcharge FLOAT64,
  airport_fee FLOAT64,
  cbd_congestion_fee FLOAT64,
  pickup_longitude FLOAT64,
  pickup_latitude FLOAT64,
  dropoff_longitude FLOAT64,
  dropoff_latitude FLOAT64,
  file_month DATE,
  source_row INT64
)
WITH PARTITION COLUMNS (year INT64, month INT64)
OPTIONS (
  format = 'PARQUET',
  enable_list_inference = TRUE,
  hive_partition_uri_prefix = 'gs://YOUR_BUCKET/clean/yellow',
  uris = ['gs://YOUR_BUCKET/clean/yellow/*.parquet']
);

CREATE OR REPLACE EXTERNAL TABLE `ny_taxi_lake.green_trip_data` (
  vendor_id INT64,
  pickup_datetime DATETIME,
  dropoff_datetime DATETIME,
  passenger_count INT64,
  trip_distance FLOAT64,
  rate_code INT64,
  store_and_fwd_flag STRING,
  pickup_location_id INT64,
  dropoff_location_id INT64,
  payment_type INT64,
  fare_amount FLOAT64,
  extra FLOAT64,
  mta_tax FLOAT64,
  tip_amount FLOAT64,
  tolls_amount FLOAT64,
  improvement_surcharge FLOAT64,
  total_amount FLOAT64,
  congestion_surcharge FLOAT64,
  cbd_congestion_fee FLOAT64,
  ehail_fee FLOAT64,
  trip_type INT64,
  pickup_longitude FLOAT64,
  pickup_latitude FLOAT64,
  dropoff_longitude FLOAT64,
  dropoff_latitude FLOAT64,
  file_month DATE,
  source_row INT64
)
WITH PARTITION COLUMNS (year INT64, month INT64)
OPTIONS (
  format = 'PARQUET',
  enable_list_inference = TRUE,
  hive_partition_uri_prefix = 'gs://YOUR_BUCKET/clean/green',
  uris = ['gs://YOUR_BUCKET/clean/green/*.parquet']
);

CREATE OR REPLACE EXTERNAL TABLE `ny_taxi_lake.fhv_trip_data` (
  dispatching_base_num STRING,
  pickup_datetime DATETIME,
  dropoff_datetime DATETIME,
  pickup_location_id INT64,
  dropoff_location_id INT64,
  sr_flag INT64,
  affiliated_base_number STRING,
  file_month DATE,
  source_row INT64
)
WITH PARTITION COLUMNS (year INT64, month INT64)
OPTIONS (
  format = 'PARQUET',
  enable_list_inference = TRUE,
  hive_partition_uri_prefix = 'gs://YOUR_BUCKET/clean/fhv',
  uris = ['gs://YOUR_BUCKET/clean/fhv/*.parquet']
);

CREATE OR REPLACE EXTERNAL TABLE `ny_taxi_lake.fhvhv_trip_data` (
  hvfhs_license_num STRING,
  dispatching_base_num STRING,
  originating_base_num STRING,
  request_datetime DATETIME,
  on_scene_datetime DATETIME,
  pickup_datetime DATETIME,
  dropoff_datetime DATETIME,
  pickup_location_id INT64,
  dropoff_location_id INT64,
  trip_miles FLOAT64,
  trip_time INT64,
  base_passenger_fare FLOAT64,
  tolls FLOAT64,
  bcf FLOAT64,
  sales_tax FLOAT64,
  congestion_surcharge FLOAT64,
  airport_fee FLOAT64,
  tips FLOAT64,
  driver_pay FLOAT64,
  shared_request_flag STRING,
  shared_match_flag STRING,
  access_a_ride_flag STRING,
  wav_request_flag STRING,
  wav_match_flag STRING,
  cbd_congestion_fee FLOAT64,
  sr_flag INT64,
  file_month DATE,
  source_row INT64
)
WITH PARTITION COLUMNS (year INT64, month INT64)
OPTIONS (
  format = 'PARQUET',
  enable_list_inference = TRUE,
  hive_partition_uri_prefix = 'gs://YOUR_BUCKET/clean/fhvhv',
  uris = ['gs://YOUR_BUCKET/clean/fhvhv/*.parquet']
);

CREATE OR REPLACE EXTERNAL TABLE `ny_taxi_lake.yellow_quarantine` (
  vendor_id INT64,
  pickup_datetime DATETIME,
  dropoff_datetime DATETIME,
  passenger_count INT64,
  trip_distance FLOAT64,
  rate_code INT64,
  store_and_fwd_flag STRING,
  pickup_location_id INT64,
  dropoff_location_id INT64,
  payment_type INT64,
  fare_amount FLOAT64,
  extra FLOAT64,
  mta_tax FLOAT64,
  tip_amount FLOAT64,
  tolls_amount FLOAT64,
  improvement_surcharge FLOAT64,
  total_amount FLOAT64,
  congestion_surcharge FLOAT64,
  airport_fee FLOAT64,
  cbd_congestion_fee FLOAT64,
  pickup_longitude FLOAT64,
  pickup_latitude FLOAT64,
  dropoff_longitude FLOAT64,
  dropoff_latitude FLOAT64,
  file_month DATE,
  source_row INT64,
  rejection_rule STRING,
  rejection_rules ARRAY<STRING>,
  raw STRING
)
WITH PARTITION COLUMNS (year INT64, month INT64)
OPTIONS (
  format = 'PARQUET',
  enable_list_inference = TRUE,
  hive_partition_uri_prefix = 'gs://YOUR_BUCKET/quarantine/yellow',
  uris = ['gs://YOUR_BUCKET/quarantine/yellow/*.parquet']
);

CREATE OR REPLACE EXTERNAL TABLE `ny_taxi_lake.green_quarantine` (
  vendor_id INT64,
  pickup_datetime DATETIME,
  dropoff_datetime DATETIME,
  passenger_count INT64,
  trip_distance FLOAT64,
  rate_code INT64,
  store_and_fwd_flag STRING,
  pickup_location_id INT64,
  dropoff_location_id INT64,
  payment_type INT64,
  fare_amount FLOAT64,
  extra FLOAT64,
  mta_tax FLOAT64,
  tip_amount FLOAT64,
  tolls_amount FLOAT64,
  improvement_surcharge FLOAT64,
  total_amount FLOAT64,
  congestion_surcharge FLOAT64,
  cbd_congestion_fee FLOAT64,
  ehail_fee FLOAT64,
  trip_type INT64,
  pickup_longitude FLOAT64,
  pickup_latitude FLOAT64,
  dropoff_longitude FLOAT64,
  dropoff_latitude FLOAT64,
  file_month DATE,
  source_row INT64,
  rejection_rule STRING,
  rejection_rules ARRAY<STRING>,
  raw STRING
)
WITH PARTITION COLUMNS (year INT64, month INT64)
OPTIONS (
  format = 'PARQUET',
  enable_list_inference = TRUE,
  hive_partition_uri_prefix = 'gs://YOUR_BUCKET/quarantine/green',
  uris = ['gs://YOUR_BUCKET/quarantine/green/*.parquet']
);

CREATE OR REPLACE EXTERNAL TABLE `ny_taxi_lake.fhv_quarantine` (
  dispatching_base_num STRING,
  pickup_datetime DATETIME,
  dropoff_datetime DATETIME,
  pickup_location_id INT64,
  dropoff_location_id INT64,
  sr_flag INT64,
  affiliated_base_number STRING,
  file_month DATE,
  source_row INT64,
  rejection_rule STRING,
  rejection_rules ARRAY<STRING>,
  raw STRING
)
WITH PARTITION COLUMNS (year INT64, month INT64)
OPTIONS (
  format = 'PARQUET',
  enable_list_inference = TRUE,
  hive_partition_uri_prefix = 'gs://YOUR_BUCKET/quarantine/fhv',
  uris = ['gs://YOUR_BUCKET/quarantine/fhv/*.parquet']
);

CREATE OR REPLACE EXTERNAL TABLE `ny_taxi_lake.fhvhv_quarantine` (
  hvfhs_license_num STRING,
  dispatching_base_num STRING,
  originating_base_num STRING,
  request_datetime DATETIME,
  on_scene_datetime DATETIME,
  pickup_datetime DATETIME,
  dropoff_datetime DATETIME,
  pickup_location_id INT64,
  dropoff_location_id INT64,
  trip_miles FLOAT64,
  trip_time INT64,
  base_passenger_fare FLOAT64,
  tolls FLOAT64,
  bcf FLOAT64,
  sales_tax FLOAT64,
  congestion_surcharge FLOAT64,
  airport_fee FLOAT64,
  tips FLOAT64,
  driver_pay FLOAT64,
  shared_request_flag STRING,
  shared_match_flag STRING,
  access_a_ride_flag STRING,
  wav_request_flag STRING,
  wav_match_flag STRING,
  cbd_congestion_fee FLOAT64,
  sr_flag INT64,
  file_month DATE,
  source_row INT64,
  rejection_rule STRING,
  rejection_rules ARRAY<STRING>,
  raw STRING
)
WITH PARTITION COLUMNS (year INT64, month INT64)
OPTIONS (
  format = 'PARQUET',
  enable_list_inference = TRUE,
  hive_partition_uri_prefix = 'gs://YOUR_BUCKET/quarantine/fhvhv',
  uris = ['gs://YOUR_BUCKET/quarantine/fhvhv/*.parquet']
);
