{{ taxi_trips('green', lacks={'airport_fee': float_type()}) }}
