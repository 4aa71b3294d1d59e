{{ taxi_trips('yellow', lacks={'trip_type': integer_type(), 'ehail_fee': float_type()}) }}
