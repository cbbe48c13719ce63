"""One store for every resumable result: digests, records, locks."""
