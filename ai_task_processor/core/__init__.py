"""What every other package uses: errors, ports, settings, clock, deadline, JSON. Of ours it imports ``models`` only."""
