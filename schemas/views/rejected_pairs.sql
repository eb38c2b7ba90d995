-- Pairs that are not accepted, one row per reason.
SELECT
    p.dataset, p.pair_id, p.relation_class AS category, p.relation, p.miner, p.source, r.reason
FROM pairs p
JOIN acceptance a ON a.dataset = p.dataset AND a.pair_id = p.pair_id AND NOT a.accept,
    unnest(a.reject_reasons) AS r (reason)
