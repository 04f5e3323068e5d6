--[[ offer_slab — on a shard: begin a transfer with an account's home, or go on with the one under way. What the shard gives back is closed to
it in this script, before its home can lend it to others.
KEYS  1 named hash   2 named_queue zset   3 named_due zset
ARGV  1 account   2 last transfer of this shard that the home has seen, 0 if it is not known   3 what stays free where nobody waits,
      "meter=amount ..."   4 what may stay where others ask in vain, '' if none do; then the home is told what the shard holds, also if nothing moves
      5 ms for which the shard lets nobody in beyond that, 0 if it may
REPLY {1, transfer, window, holds, least, needs} under way | {0} nothing to move ]]
local named = named_open(KEYS[1], KEYS[2], KEYS[3])
local account = named_account(named, ARGV[1])
local slab = account and account.slab
if not slab then return {0} end
if ARGV[5] ~= '0' and account.waits then  -- an account that refuses keeps nobody waiting
  redis.call('HSET', KEYS[1], 'recall|' .. ARGV[1], int(named.now + tonumber(ARGV[5])) .. ' ' .. ARGV[4])
end
local least, needs = slab_needs(named, account)
local waits, payable, recalled, busy = next(least) ~= nil, true, false, false
for meter, asked in pairs(least) do
  payable = payable and most_here(account, meter) - used_of(account, meter) >= asked
  recalled = recalled or (account.recall[meter] and used_of(account, meter) + asked > account.recall[meter]) or false
end
if payable then
  least, needs = {}, {}
  redis.call('HDEL', KEYS[1], 'want|' .. ARGV[1])  -- who wanted it finds it, if it still runs
elseif recalled then
  least, needs = {}, {}  -- it might not use what it got
end
local function answer()
  return {1, int(slab.transfer), int(slab.window), slab_words(slab.amounts), slab_words(least), slab_words(needs)}
end
if slab.moving and slab.transfer > tonumber(ARGV[2]) then return answer() end

local holds, moves, kept, share = {}, slab.moving or not (payable or recalled) or ARGV[4] ~= '', amounts(ARGV[3]), amounts(ARGV[4])
for meter in pairs(account.limits) do
  local parts = part_of(account, meter)
  busy = busy or parts[1] > 0 or (account.kind == 'sliding' and parts[2] > 0)
end
for meter in pairs(account.limits) do
  local used, held = used_of(account, meter), slab.amounts[meter] or 0
  local stays = used
  if not waits then stays = math.min(held, used + (busy and kept[meter] or 0))
  elseif payable then stays = math.min(held, share[meter] or held) end  -- of what the others do not lack it keeps what it has
  holds[meter] = math.max(used, stays)  -- what went beyond an estimate is the home's loss as well
  moves = moves or holds[meter] ~= held
end
if not moves then return {0} end
slab.amounts, slab.moving, slab.transfer = holds, true, math.max(slab.transfer, tonumber(ARGV[2])) + 1
redis.call('HSET', KEYS[1], 'slab|' .. ARGV[1], slab_text(slab))
return answer()
