"""``make dataset``: a whole release on this machine, from requests to what researchers load."""
