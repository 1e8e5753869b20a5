"""The runtime type checker of the tests: beartype, with int accepted for float as Python's own type checkers do."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
