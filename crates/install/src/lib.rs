//! Package managers, idleness, planning, journal.
