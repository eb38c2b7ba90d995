-- Licences and authors of the images, and of the accepted pairs made from them.
SELECT
    i.dataset, i.license_spdx, i.author, i.source, count(*) AS images,
    coalesce(sum(t.pairs), 0)::BIGINT AS accepted_pairs
FROM images i
LEFT JOIN (
    SELECT p.dataset, p.target_id, count(*) AS pairs
    FROM pairs p
    JOIN acceptance a ON a.dataset = p.dataset AND a.pair_id = p.pair_id AND a.accept
    GROUP BY ALL
) t ON t.dataset = i.dataset AND t.target_id = i.pixel_id
GROUP BY ALL
ORDER BY ALL
