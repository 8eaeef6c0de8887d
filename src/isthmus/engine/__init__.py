"""The disk: storage engines behind the interface of `isthmus.store.engine`."""
