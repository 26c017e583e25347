"""What several tests need. Fixtures for real servers are in the repository's `conftest.py`; what they start is here.

waiting           wait for what other processes do
databases         ask a database under test from outside
repository        where the repository's files are
long_form         is this `make prove`?
documents         the documents, block by block
whole_system      all services of the repository as processes
nest_peers        NestJS services as processes
hosted            a service as a process, its ports and what it says
meters            what each service of a system spends
redis_under_test  a Redis or Valkey server, and what can happen to one
shop_and_mail     two services and their databases in a described state; `command_fixtures` run `cauce` on them
services/         single services to be started as programs
durable/          systems whose processes are killed, and what must still be true: begin with `harness`
"""
