-- Pairs per category: mined, accepted, rejected, and accepted ones per split.
SELECT
    dataset, category, count(*) AS mined,
    count(*) FILTER (accept) AS accepted, count(*) FILTER (NOT accept) AS rejected,
    count(*) FILTER (accept AND split = 'train') AS train,
    count(*) FILTER (accept AND split = 'val') AS val,
    count(*) FILTER (accept AND split = 'test') AS test
FROM pair_facts
GROUP BY ALL
ORDER BY ALL
