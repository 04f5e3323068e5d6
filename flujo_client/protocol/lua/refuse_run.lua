--[[ refuse_run — store a submission that was refused as a run that failed, so that who only knows its id learns why. It has no
steps, nobody drives it, and a submission of the same id that is taken replaces it.
KEYS  1 run hash   2 payloads hash   3 finished zset
ARGV  1 run id   2 pipeline name   3 error   4 result   5 traceparent   6 schema version   7 retention_ms
REPLY {1} stored | {0, status} a run has this id ]]
local stored = redis.call('HMGET', KEYS[1], 'fingerprint', 'status')
if stored[1] and stored[1] ~= 'refused' then return {0, stored[2]} end

local now = int(now_ms())
redis.call('HSET', KEYS[1], 'schema', ARGV[6], 'run_id', ARGV[1], 'fingerprint', 'refused', 'owner', 'pool',
  'spec', '', 'pipeline', ARGV[2], 'limits', '', 'traceparent', ARGV[5], 'metadata', '',
  'status', 'failed', 'gate', 'closed', 'revision', '0', 'operation', '', 'applied', '0-0', 'last_event', '0-0',
  'created_ms', now, 'finished_ms', now, 'error', ARGV[3], 'final', '1')
redis.call('HSET', KEYS[2], 'result', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[7])
redis.call('PEXPIRE', KEYS[2], ARGV[7])
redis.call('ZADD', KEYS[3], int(now_ms() + tonumber(ARGV[7])), ARGV[1])
return {1}
