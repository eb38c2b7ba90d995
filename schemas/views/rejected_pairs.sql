-- Pairs that are not accepted, one row per reason.
SELECT f.dataset, f.pair_id, f.category, f.relation, f.miner, f.source, r.reason
FROM pair_facts f, unnest(f.reject_reasons) AS r (reason)
WHERE NOT f.accept
