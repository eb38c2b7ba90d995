-- Pairs per category: mined, accepted, rejected, and accepted ones per split.
SELECT
    p.dataset, p.relation_class AS category, count(*) AS mined,
    count(*) FILTER (a.accept) AS accepted, count(*) FILTER (NOT a.accept) AS rejected,
    count(*) FILTER (a.accept AND s.split = 'train') AS train,
    count(*) FILTER (a.accept AND s.split = 'val') AS val,
    count(*) FILTER (a.accept AND s.split = 'test') AS test
FROM pairs p
JOIN acceptance a ON a.dataset = p.dataset AND a.pair_id = p.pair_id
LEFT JOIN splits s ON s.dataset = p.dataset AND s.pair_id = p.pair_id
GROUP BY ALL
ORDER BY ALL
