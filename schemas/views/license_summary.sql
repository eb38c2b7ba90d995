-- Licences and authors of the images, and of the accepted pairs whose target they are.
WITH per_image AS (
    SELECT dataset, license_spdx, author, source, count(*) AS images FROM images GROUP BY ALL
),
per_pair AS (
    SELECT dataset, target_license, target_author, source, count(*) AS pairs
    FROM pair_facts
    WHERE accept
    GROUP BY ALL
)
SELECT
    i.dataset, i.license_spdx, i.author, i.source, i.images,
    coalesce(p.pairs, 0)::BIGINT AS accepted_pairs
FROM per_image i
LEFT JOIN per_pair p
    ON p.dataset = i.dataset AND p.target_license = i.license_spdx
    AND p.target_author = i.author AND p.source = i.source
ORDER BY ALL
