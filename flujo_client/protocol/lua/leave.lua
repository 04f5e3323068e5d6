--[[ leave — note of a held claim that its process is about to end under the body, which cannot be stopped: whoever gives the lease up then counts no death.
KEYS  1 attempts hash
ARGV  1 claim nonce   2 usage known, "meter=amount ..."
REPLY {1} noted | {0} the claim is not held any more ]]
local claim = 'claim|' .. ARGV[1] .. '|'
if redis.call('HGET', KEYS[1], claim .. 'phase') ~= 'held' then return {0} end
redis.call('HSET', KEYS[1], claim .. 'left', ARGV[2])
return {1}
