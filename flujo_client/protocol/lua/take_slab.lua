--[[ take_slab — on a shard: end a transfer with what its home has granted; once, and only the transfer under way.
KEYS  1 named hash
ARGV  1 account   2 transfer   3 granted, "meter=amount ..."   4 ms for which more is not to be had, 0 if it was granted
REPLY {1} taken | {0} no such transfer is under way ]]
local slab = slab_read(redis.call('HGET', KEYS[1], 'slab|' .. ARGV[1]) or nil)
if not slab or not slab.moving or int(slab.transfer) ~= ARGV[2] then return {0} end
for meter, amount in pairs(amounts(ARGV[3])) do slab.amounts[meter] = (slab.amounts[meter] or 0) + amount end
slab.moving, slab.dry = false, tonumber(ARGV[4]) > 0 and now_ms() + tonumber(ARGV[4]) or 0
redis.call('HSET', KEYS[1], 'slab|' .. ARGV[1], slab_text(slab))
if tonumber(ARGV[4]) > 0 then redis.call('HDEL', KEYS[1], 'want|' .. ARGV[1]) end  -- else it is kept for who wanted it
return {1}
