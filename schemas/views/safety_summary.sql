-- Safety decisions counted by check, provider, outcome and reason.
SELECT
    dataset, "check", provider, outcome, reason, count(*) AS decisions,
    count(DISTINCT subject_hmac) AS subjects, max(decided_at) AS last_decided_at
FROM safety_decisions
GROUP BY ALL
ORDER BY ALL
