"""The core of an xDS server for any types: views published whole, any number of streams."""
