--[[ emit — append a chunk of a running step's stream, if its claim is still held; once per sequence number.
KEYS  1 attempts hash   2 event stream
ARGV  1 path   2 attempt   3 claim nonce   4 sequence number   5 chunk
REPLY {1} appended | {0} lease lost | {2} appended before ]]
local claim = 'claim|' .. ARGV[3] .. '|'
local stored = redis.call('HMGET', KEYS[1], claim .. 'phase', claim .. 'emitted')
if stored[1] ~= 'held' then return {0} end
if tonumber(stored[2] or 0) >= tonumber(ARGV[4]) then return {2} end
redis.call('HSET', KEYS[1], claim .. 'emitted', ARGV[4])
redis.call('XADD', KEYS[2], '*', 'kind', 'chunk', 'path', ARGV[1], 'attempt', ARGV[2], 'sequence', ARGV[4], 'data', ARGV[5])
return {1}
