# bash completion for outboard-device
#
# The program's --help, which it prints from its tables, says what there is: so models and their options
# need not be known here.

# _outboard_device_options MODEL: the options of every model and those of this one, a line each.
_outboard_device_options()
{
	local line inside=

	while IFS= read -r line; do
		case $line in
		options:) inside=1 ;;
		"model $1:"*) inside=1 ;;
		model\ *) inside= ;;
		'  --'*)
			[[ -n $inside ]] || continue
			line=${line#"  "}
			line=${line%% *}
			# a value follows
			[[ $line == *=* ]] && line=${line%%=*}=
			printf '%s\n' "$line"
			;;
		esac
	done <<<"$2"
}

_outboard_device()
{
	local line=${COMP_LINE:0:COMP_POINT} word model='' help head
	local -a words
	word=${line##*[[:space:]]}
	read -ra words <<<"${line%"$word"}"
	help=$("${words[0]}" --help 2>/dev/null) || return
	[[ ${words[1]} == -* ]] || model=${words[1]}
	if [[ $word == --*=* ]]; then
		mapfile -t COMPREPLY < <(compgen -f -- "${word#*=}")
		return
	fi
	if [[ $word != -* && -z $model ]]; then
		head=$(sed -n 's/^model \([^:]*\):.*/\1/p' <<<"$help")
	else
		head=$(_outboard_device_options "$model" "$help")
		compopt -o nospace 2>/dev/null
	fi
	mapfile -t COMPREPLY < <(compgen -W "$head" -- "$word")
	# a blank after what takes no value
	[[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} != *= ]] && compopt +o nospace 2>/dev/null
}

complete -F _outboard_device outboard-device
