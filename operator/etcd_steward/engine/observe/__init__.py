"""Looking at an etcd: cheaply, again and again, without writing anything."""
