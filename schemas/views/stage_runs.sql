-- Every artifact that was made: when, for which recipe, how long it took and how large it is.
SELECT
    r.stage, r.digest, r.recipe, r.created_at, r.seconds, r.git_commit, r.run,
    count(f.file) AS files, coalesce(sum(f.bytes), 0)::UBIGINT AS bytes, r.notes
FROM runs r
LEFT JOIN artifacts f ON f.stage = r.stage AND f.digest = r.digest
GROUP BY ALL
ORDER BY r.created_at
