"""What checks types and shapes in the tests: beartype, which takes whole numbers for floats too."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
