"""Prints what dnspython's stub resolver says of each name: its addresses, or the exception's name."""
import sys

import dns.resolver

resolver = dns.resolver.Resolver()
for name in sys.argv[1:]:
    addresses, errors = [], []
    for rdtype in ("A", "AAAA"):
        try:
            addresses += [record.to_text() for record in resolver.resolve(name, rdtype, search=True)]
        except dns.exception.DNSException as error:
            errors.append(type(error).__name__)
    print(name, *(sorted(addresses) or sorted(set(errors))))
