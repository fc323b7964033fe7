"""The sandbox: one small server that plays token endpoint, task API and model API, with faults on demand."""
