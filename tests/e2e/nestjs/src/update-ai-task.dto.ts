import { Type } from 'class-transformer';
import { Allow, IsIn, IsOptional, IsString, ValidateNested } from 'class-validator';
import { STATES, type State } from './schemas.js';

class TaskErrorDto {
  @IsString()
  code: string;

  @IsString()
  message: string;
}

export class UpdateAiTaskDto {
  @IsIn(STATES)
  state: State;

  @Allow()
  result?: unknown;

  @IsOptional()
  @ValidateNested()
  @Type(() => TaskErrorDto)
  error?: TaskErrorDto;
}
