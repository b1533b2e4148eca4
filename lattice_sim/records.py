from lattice_core.records import Records as Records
