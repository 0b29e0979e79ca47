"""A cloud that counts the truth, and a Terraform provider for it: each a process of its own, so that each can be killed.

`terraform_data` cannot show what a crash costs: its refresh and its import read nothing. Here a duplicate is a second object
of one name that no state can hide, "in flight" is something a test asks for (`hooks.py`), and the record of every change is
synced to disk before anybody is answered.

* `cloud.py`     the cloud, over HTTP on the loopback; `world.py` its objects and record, `hooks.py` what holds it up
* `client.py`    what tests start and ask: a cloud, a provider, the truth
* `provider.py`  the provider (protocol 6), reattached to or started by Terraform through `mirror.py`; `schema.py` its types
"""
