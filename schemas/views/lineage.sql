-- Which artifact was made from which.
SELECT r.stage, r.digest, i.source.stage AS input_stage, i.source.digest AS input_digest, r.created_at
FROM runs r, unnest(r.inputs) AS i (source)
ORDER BY r.created_at, input_stage
