"""One store for every result that is worth keeping: digests, records, locks, stages.

- `digests`: what identifies a file, a set of images, settings;
- `json_file`: the one reader of JSON that anybody may have written, and the one writer;
- `record`: what a piece of work gave, found again by the key of everything that decided it;
- `record_file`: many such records in one file, for work that is done in one process;
- `stages`: pieces of work that follow one another in one folder;
- `lock`: keeps two processes out of one folder;
- `provenance`: the command, the versions and the inputs of a result, for its reader.

Nothing here knows networks or data sets.
"""
