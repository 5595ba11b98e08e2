"""Maps and programs that enforce a cut: in the kernel (libbpf), and an in-memory twin.

`base` is the port and needs nothing; `kernel` needs the built extension and BPF object.
"""
