--[[ stash — store numbered payloads of a running attempt beside the run, if its claim is still held; the same again is written over.
KEYS  1 attempts hash   2 payloads hash
ARGV  1 claim nonce   2 field of the payloads, without their numbers   3 number of the first   4.. payload each, at most 500
REPLY {1} stored | {0} lease lost ]]
if redis.call('HGET', KEYS[1], 'claim|' .. ARGV[1] .. '|phase') ~= 'held' then return {0} end
local fields = {}
for i = 4, #ARGV do
  fields[#fields + 1] = ARGV[2] .. '.' .. int(tonumber(ARGV[3]) + i - 4)
  fields[#fields + 1] = ARGV[i]
end
redis.call('HSET', KEYS[2], unpack(fields))
return {1}
